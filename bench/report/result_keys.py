"""The keys of a result file that the report reads by a name, in one place."""

ABLATION = "prices"
AA_TEST = "itself"
COMPONENTS, COMPONENT = "parts", "part"  # the list, and the name in each of its entries
SCENARIO = "sitting"
LEAVE_ONE_OUT = "without"
