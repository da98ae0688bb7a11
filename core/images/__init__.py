"""Tensors to pictures and back, and what a picture file says about its making."""
