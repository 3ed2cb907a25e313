"""Bad input, clear error: each row of the table that concerns what is served, against logd alone."""
