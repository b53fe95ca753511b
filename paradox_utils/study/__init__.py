"""Studies: what a config file asks for, and the running of it. Plans and launches notebooks; imports nothing that trains."""
