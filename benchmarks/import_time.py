"""What our method table costs every `ns-*` command: seconds that importing it adds to nerfstudio's own imports.

python benchmarks/import_time.py
"""

import subprocess
import sys

CODE = """
import time
import nerfstudio.plugins.registry as registry
import nerfstudio.engine.trainer
registry.discover_methods = lambda: ({}, {})
import nerfstudio.configs.method_configs
start = time.perf_counter()
import pds_nerfstudio.methods
print(time.perf_counter() - start)
"""

if __name__ == "__main__":
    seconds = sorted(
        float(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, check=True
            ).stdout.split()[-1]
        )
        for _ in range(5)
    )
    print(f"import pds_nerfstudio.methods adds {seconds[2]:.3f} s (median of 5; {seconds[0]:.3f} to {seconds[-1]:.3f})")
