"""What the app shows: what each panel asks, how that is computed, and what is drawn of it."""
