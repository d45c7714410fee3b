#!/bin/sh
# Create a separate environment for each peer: their requirements conflict with each other and with taughtby.
# Usage: sh benchmarks/peers/setup.sh [FOLDER]     (default: benchmarks/peers/environments; 3 GB)
set -eu
folder=${1:-$(dirname "$0")/environments}
python=${PYTHON:-python3}
torch=torch==2.13.0

"$python" -m venv "$folder/bergson"
"$folder/bergson/bin/pip" install --quiet "$torch"
"$folder/bergson/bin/pip" install --quiet "$torch" bergson==2.5.1
# bergson requires torchvision and torchaudio but imports neither; with a torch without CUDA, torchvision from the
# Python Package Index breaks the import of transformers ("operator torchvision::nms does not exist")
if ! "$folder/bergson/bin/python" -c "import torchvision" 2>/dev/null; then
    "$folder/bergson/bin/pip" uninstall --quiet --yes torchvision torchaudio
fi

"$python" -m venv "$folder/dattri"
"$folder/dattri/bin/pip" install --quiet "$torch"
"$folder/dattri/bin/pip" install --quiet "$torch" "dattri-llm[transformers]==0.1.0" peft==0.21.2

"$folder/bergson/bin/python" -c "import bergson"
"$folder/dattri/bin/python" -c "import dattri_llm.attribution"
echo "environments: $folder/bergson, $folder/dattri"
