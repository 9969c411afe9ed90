"""What the benches beside a peer share: a process a side, turns, medians, the table and the line of JSON.

`worker.py` and the peers' sides (`llama_cpp_side.py`, `ctranslate2_side.py`) run under the peer's own interpreter and
import nothing of Aquila.
"""
