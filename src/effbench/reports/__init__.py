"""From measurements to tables, plots and the verdict; never needs torch."""
