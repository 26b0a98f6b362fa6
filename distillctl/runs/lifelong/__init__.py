"""Tasks learnt one after another: which data each has, the plan, what happens at their boundaries, what it all was worth."""
