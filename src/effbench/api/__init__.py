"""The commands as typed functions, a module each; `effbench` itself offers them by name."""
