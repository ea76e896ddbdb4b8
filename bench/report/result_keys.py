"""The keys of a result file that the report reads by a name, in one place."""

ABLATION = "ablation"
AA_TEST = "aa_test"
COMPONENTS, COMPONENT = "components", "component"  # the list, and the name in each of its entries
SCENARIO = "scenario"
LEAVE_ONE_OUT = "leave_one_out"
