"""PPO: its objective, its loop, evaluation, what is measured before it, and the state from which a killed run goes on."""
