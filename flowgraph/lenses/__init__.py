"""Reading in vocabulary: states, direct logit attribution, queries and keys, scores of heads."""
