"""Other ways to do the same work, run beside ours."""
