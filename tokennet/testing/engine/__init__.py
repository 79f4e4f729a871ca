"""How a law is decided: sandbox, runs, interventions, tolerance, verdict."""
