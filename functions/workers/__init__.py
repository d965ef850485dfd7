"""Workers of functions as the daemon sees them: how events get in and results out, their life, and their number."""
