"""What the verbs do: the only place where stages meet."""
