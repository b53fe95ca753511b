"""Analysis: what finished runs, and the paper's figures, say. Reads tables; imports nothing that trains, and no torch."""
