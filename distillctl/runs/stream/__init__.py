"""A stream learnt once: where its samples come from, who teaches, when a drift is told, what is deployed, and what is saved of it all."""
