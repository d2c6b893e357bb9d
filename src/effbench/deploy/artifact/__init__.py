"""An artifact on disk: its folder and manifest, its proof (fidelity), and where its operators run (placement)."""
