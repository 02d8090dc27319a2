"""From a plan to a network: weighted calls become HAT layers, masks and task ids become edges."""
