"""Transaction handles: ways to run our statements on somebody else's transaction."""
