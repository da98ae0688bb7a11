"""Words to conditioning: prompt grammar, tokens, text encoders."""
