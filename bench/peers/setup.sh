#!/bin/sh
# Installs ONNX Runtime for Linux x64 and prints the path of its shared library, which peers takes as -ort:
#
#	export ORT_LIBRARY="$(./setup.sh)"
#
# The library is that of the npm package onnxruntime-node. It goes to the folder named by the first argument, or else
# to anchor-peers in the user's cache folder; no script of any package is run. ORT_VERSION chooses another version.
set -eu

dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/anchor-peers}
version=${ORT_VERSION:-1.30.0}

if [ "$(uname -sm)" != "Linux x86_64" ]; then
	echo "setup.sh: this is $(uname -sm); want Linux x86_64" >&2
	exit 1
fi
if ! command -v npm >/dev/null; then
	echo "setup.sh: npm is not installed" >&2
	exit 1
fi

mkdir -p "$dir"
npm install --ignore-scripts --no-save --no-audit --no-fund --prefix "$dir" "onnxruntime-node@$version" >&2
for library in "$dir"/node_modules/onnxruntime-node/bin/napi-v*/linux/x64/libonnxruntime.so*; do
	if [ -f "$library" ]; then
		echo "$(cd "$(dirname "$library")" && pwd)/$(basename "$library")"
		exit 0
	fi
done
echo "setup.sh: onnxruntime-node $version holds no libonnxruntime.so for Linux x64" >&2
exit 1
