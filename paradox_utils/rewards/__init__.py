"""Rewards: what reward models learn from, how they score and train, how well they agree with the truth, and what they pay."""
