"""An artifact on disk: its folder and manifest, its fidelity, and where its operators run (placement)."""
