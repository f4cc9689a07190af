"""Tools beside the phases: demo, doctor, fidelity."""
