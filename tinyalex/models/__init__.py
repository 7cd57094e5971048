"""Networks: each file reads like the paper's section 3.5."""
