"""Which of several reward models to train a policy with: a tool for one's own, above makers and readers."""
