"""Library of the head node: configs, board protocol, links, bring-up, run control."""
