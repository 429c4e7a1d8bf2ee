{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  testers,
  versionCheckHook,
}:

rustPlatform.buildRustPackage (finalAttrs: {
  pname = "opencode-instances";
  inherit ((lib.importTOML ../Cargo.toml).workspace.package) version;

  # Only what the build reads. The engine stands in every unit, so that a new one restarts every
  # server; a change of a test or of a document is not worth that. `.cargo` is left out too: it
  # asks for a static glibc, which is for hosts that have no Nix store.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../crates/cli/Cargo.toml
      ../crates/cli/src
      ../crates/core/Cargo.toml
      ../crates/core/src
      ../crates/sys/Cargo.toml
      ../crates/sys/src
      ../schema/opencode
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  # The manifests name members, tests and benchmarks that the source leaves out.
  postPatch = ''
    substituteInPlace Cargo.toml --replace-fail 'members = ["crates/*", "xtask"]' 'members = ["crates/*"]'
    sed -i '/^\[dev-dependencies\]/,$d' crates/*/Cargo.toml
  '';

  cargoBuildFlags = [ "--package=opencode-instances" ];

  # The pure half. What touches a host is tested in machines: `cargo xtask test`, and passthru.tests.
  cargoTestFlags = [
    "--package=instances-core"
    "--lib"
  ];

  nativeBuildInputs = [ installShellFiles ];

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd opencode-instances \
      --bash <($out/bin/opencode-instances completions bash) \
      --fish <($out/bin/opencode-instances completions fish) \
      --zsh <($out/bin/opencode-instances completions zsh)
    $out/bin/opencode-instances man > opencode-instances.1
    installManPage opencode-instances.1
  '';

  nativeInstallCheckInputs = [ versionCheckHook ];
  doInstallCheck = true;

  passthru.tests = import ./tests {
    inherit lib testers;
    package = finalAttrs.finalPackage;
  };

  meta = {
    description = "Hosts many isolated opencode servers on one Linux machine";
    homepage = "https://github.com/opencode-instances/opencode-instances";
    changelog = "https://github.com/opencode-instances/opencode-instances/blob/v${finalAttrs.version}/CHANGELOG.md";
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    maintainers = [ ];
    mainProgram = "opencode-instances";
    platforms = lib.platforms.linux;
  };
})
