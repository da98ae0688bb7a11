"""A tiny latent diffusion model that ships with the project: its data, training and weights."""
