"""The run folder comes in; a page that shows it, and follows it while a search runs, goes out."""
