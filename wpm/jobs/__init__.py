"""One piece of work in, on one worker; its records in the run folder out."""
