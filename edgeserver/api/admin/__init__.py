"""The part of Synapse's admin API that tools of operators use (`/_synapse/admin`): one file for each of its sections."""
