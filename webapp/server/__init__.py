"""Questions and answers: one worker owns the model, the page asks."""
