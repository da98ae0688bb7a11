"""One file a page: what is drawn, and what is wired, in two functions."""
