"""Precision is written into the graph: half precision, int8 and a16w8, and which operators stay in float."""
