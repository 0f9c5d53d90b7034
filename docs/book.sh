#!/usr/bin/env bash
# Makes the site of the documents: target/book/index.html. mdBook comes from crates.io, once.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.5.4
mdbook=$PWD/target/tools/bin/mdbook
repository=https://github.com/podwasm/podwasm/blob/main

if [ "$("$mdbook" --version 2>/dev/null)" != "mdbook v$version" ]; then
    echo "book: building mdbook $version, which takes some minutes"
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
    cargo install --quiet mdbook --version "$version" --locked --no-default-features --features search \
        --root "$PWD/target/tools" --target-dir "$build"
fi
"$mdbook" build docs

# What lies beside the documents is no part of the site: such links lead to the repository, where Markdown is Markdown.
sed -i -E -e "s#href=\"\.\./([^\":]*)\.html([\"\#])#href=\"$repository/\1.md\2#g" -e "s#href=\"\.\./([^\":]*)\"#href=\"$repository/\1\"#g" target/book/*.html
rm -f target/book/book.toml target/book/book.sh
echo "book: target/book/index.html"
