"""UnComp: more cache for heads of high matrix entropy, fewer hidden states for layers of high matrix entropy."""
