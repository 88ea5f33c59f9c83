"""The commented settings file that `parity init-config` writes. It passes `parity check-config` as it is."""

TEMPLATE = """\
# parity-proxy settings. A key that is commented out shows its default, or, where it has none, an example.
# Check after each edit:  parity check-config parity.toml

[candidate]                            # the quantized engine; it serves the clients
url = "http://127.0.0.1:8001"
# model = "..."                        # the name that shadow calls use; default: as the client asked
# weights = "/models/awq"              # its files on this machine; default: where the engine says, if they are here
# api_key_env = "CANDIDATE_API_KEY"    # for shadow replays only; clients' own keys pass through untouched

[reference]                            # the same model at BF16
url = "http://127.0.0.1:8002"
# model = "..."                        # set it when the reference is served under another name
# weights = "/models/bf16"             # as above
# api_key_env = "REFERENCE_API_KEY"
# contract = "contract.toml"           # a pin (`parity contract pin`): while an arm is not that, nothing is judged
# teacher_forcing = false              # true on a vLLM that allows prompt_logprobs

[relay]
# host = "127.0.0.1"
# port = 8080
# workers = 1                          # processes on one port
# max_connections = 4096               # clients' connections per worker; each takes an open file (ulimit -n)
# max_in_flight = 1024                 # per worker; 503 with Retry-After beyond
# max_body_bytes = 33554432            # 413 beyond
# connect_timeout_s = 2.0
# first_byte_timeout_s = 600.0         # none on the stream as a whole
# failover = "reference"               # it answers when the candidate fails before its first byte
# max_failover_bytes = 67108864        # of bodies held for that, per worker
# allow_paths = ["/health", "/version", "/ping", "/tokenize", "/detokenize"]
# tls_certificate = "cert.pem"
# tls_key = "key.pem"

[sampling]
# rate = 0.05                          # share of requests that are mirrored
# large_body_bytes = 65536
# large_body_rate = 0.05               # the share among bodies of that size or larger
# salt_env = "PARITY_SALT"

[mirror]
# concurrency = 16                     # shadow calls at once
# timeout_s = 120.0
# mode = "regenerate"                  # or "verify": the reference generates only what it would say differently
# verify_margin_nats = 0.5             # closer than this, two tokens prove nothing (docs/reference-cost.md)
# noise_rate = 0.25                    # share of the mirrored that call the reference twice: the noise floor
# replay_rate = 0.25                   # share of the mirrored that the candidate answers again, with logprobs
# needle_rate = 0.05                   # share of the long prompts that get a planted needle
# teacher_forced_rate = 0.0

[ledger]
# path = "parity-ledger.sqlite"
# retention_days = 30.0
# max_bytes = 2147483648
# keep_share = 0.01                    # uniform share of pairs whose bodies are kept; mismatches are kept anyway
# redact = ["$.messages[*].content"]   # replaced before anything is written

[control]
# host = "127.0.0.1"
# port = 9090
# token_env = "PARITY_CONTROL_TOKEN"   # required beyond loopback
# gate_token_env = "PARITY_GATE_TOKEN" # a second token, for Argo, Flagger and CI: it asks the gate, nothing else

[gate]
# recipe = "candidate"
# recipe_file = "awq.toml"             # its recipe (docs/recipes.md): several axes at once then need evidence for each,
# proven = [{ recipe_file = "weights.toml", ledger = "weights.sqlite" }]   # such as this,
# several_axes = false                 # or this said
# workload = "agent"                   # or chat, code, long_context: its budgets, which those below change key by key
# alpha_promote = 0.05
# alpha_rollback = 0.01
# min_coverage = 0.5
# look_interval_s = 30.0               # how often both engines are asked what they are

# [rollout]                            # a staged rollout: the reference serves the other clients. Without this
#                                      # table the candidate serves everything. See docs/staged-rollout.md
# sticky = ["authorization"]           # the first of these headers that a request has tells its client
# max_silence_s = 30.0                 # without a monitor for so long the reference serves; 0: never
# steps = [                            # left after its pairs and its time, no budget being over
#   { share = 0.05, pairs = 200, seconds = 600.0 },
#   { share = 0.25, pairs = 200, seconds = 600.0 },
#   { share = 1.0 },                   # needs the verdict pass
# ]

# Budgets: limit is the drop that the product accepts; pass also needs at most noise_multiple times the noise floor.
# At least one must be critical: it alone can fail the recipe. A workload's preset is taken out by  NAME = false.
[budgets.tool_call_mismatch]
limit = 0.03
critical = true

[budgets.tool_schema_failure]
limit = 0.01

[budgets.copy_recall_loss]
limit = 0.05
strata = ["length"]                    # each prompt-length bucket passes for itself; "tools" splits by tools or not

[budgets.logprob_kl]
limit = 0.05
"""
