"""The page as it stands before anything is asked."""
