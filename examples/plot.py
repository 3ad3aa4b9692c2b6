# /// script
# dependencies = ["matplotlib", "pandas"]
# ///
"""
A data-science job whose packages are installed for it, and whose picture comes back:

    neurovisor run --out plot.png examples/plot.py
"""

import matplotlib

matplotlib.use("Agg")

import pandas as pd

steps = pd.DataFrame({"step": range(50)})
steps["position"] = (steps.step.mul(0.7).apply(lambda x: (x * 7919) % 3 - 1)).cumsum()
axes = steps.plot(x="step", y="position", title="A walk")
axes.figure.savefig("plot.png")
print(steps.position.describe().to_string())
