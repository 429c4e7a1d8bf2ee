# Packages that are derivations and nothing more: enough for store paths, string contexts, versions and
# main programs to be real.
{ lib }:
let
  system = "x86_64-linux";

  package =
    pname: version:
    derivation {
      name = "${pname}-${version}";
      inherit pname version system;
      builder = "/bin/sh";
    }
    // {
      inherit pname version;
      meta.mainProgram = pname;
    };

  names = lib.genAttrs [
    "coreutils"
    "curl"
    "diffutils"
    "file"
    "findutils"
    "gawk"
    "getent"
    "git"
    "glibc"
    "gnugrep"
    "gnupatch"
    "gnused"
    "gnutar"
    "gzip"
    "iana-etc"
    "less"
    "ncurses"
    "nftables"
    "nix"
    "nix-ld"
    "nodejs"
    "openssl"
    "procps"
    "python3"
    "ripgrep"
    "tzdata"
    "unzip"
    "which"
    "xz"
    "zlib"
  ] (pname: package pname "1.0");

  platform = lib.systems.elaborate system;
in
names
// {
  inherit package;
  bash = package "bash" "5.3";
  opencode = package "opencode" "1.18.30";
  opencode-instances = package "opencode-instances" "0.1.0";
  systemd = package "systemd" "258.1";

  stdenv = {
    buildPlatform = platform;
    hostPlatform = platform;
    cc = {
      bintools.dynamicLinker = "${names.glibc}/lib/ld-linux-x86-64.so.2";
      cc = package "gcc" "15.1";
    };
  };

  writeText =
    name: text:
    derivation {
      inherit name system text;
      builder = "/bin/sh";
    };
}
