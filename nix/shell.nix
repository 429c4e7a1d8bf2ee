# What `cargo xtask` needs and Nix can give. Machines also need root, and mmdebstrap for their image.
{
  mkShell,
  cargo,
  clippy,
  glibc,
  nftables,
  nixfmt-tree,
  rustc,
  rustfmt,
}:
mkShell {
  packages = [
    cargo
    clippy
    nftables
    nixfmt-tree
    rustc
    rustfmt
  ];
  # Outside Nix the engine is one static file, see .cargo/config.toml.
  buildInputs = [ glibc.static ];
}
