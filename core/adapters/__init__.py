"""What changes a model's weights or attention for a while: LoRAs and their kin, hypernetworks."""
