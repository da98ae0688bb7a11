"""The mathematics of denoising: schedules, predictions, guidance, noise, samplers. No files."""
