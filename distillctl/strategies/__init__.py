"""How a model learns tasks one after another: what it keeps of the earlier ones, and what a step computes to forget little."""
