"""What all formats need, and what they do not."""

import subprocess
import sys


def test_csv_and_coco_need_no_worker_packages() -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(['numpy', 'PIL', 'pycocotools', 'torch', 'celery']);"
        "import producer.results.exports.csv_file, producer.results.exports.coco"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
