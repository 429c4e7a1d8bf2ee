# Debian's programs as packages of a store, each with everything that it needs. They stand in for
# those of nixpkgs: whatever runs in a sandbox finds the rest in its closure, or not at all.
let
  # The only derivations that see the machine: they are built outside Nix's own sandbox.
  copy =
    name: script:
    derivation {
      inherit name;
      system = builtins.currentSystem;
      builder = "/bin/sh";
      args = [
        "-euc"
        script
      ];
      PATH = "/usr/sbin:/usr/bin:/usr/lib/systemd";
      __noChroot = true;
    }
    // {
      pname = name;
      meta.mainProgram = name;
    };

  # Copies the libraries and the loader of the programs and libraries that it gets.
  libraries = "ldd $files | awk 'NF > 1 && $(NF - 1) ~ \"^/\" { print $(NF - 1) }' | sort -u | xargs cp -Lt $out/lib";

  # Programs with all of that below the same path; `more` copies what else there is.
  programs =
    {
      name,
      files ? name,
      plugins ? "",
      more ? "",
    }:
    copy name ''
      mkdir -p $out/bin $out/lib
      for file in ${files}; do cp -L $(command -v $file) $out/bin/; done
      files="$(echo $out/bin/* ${plugins})"
      ${libraries}
      for file in $out/bin/*; do
        patchelf --set-interpreter $out/lib/ld-linux-x86-64.so.2 \
          --force-rpath --set-rpath $out/lib $file
      done
      ${more}
    '';
in
{
  # Static: no other program is needed where it is the builder.
  opencode-instances = copy "opencode-instances" ''
    mkdir -p $out/bin
    cp /usr/bin/opencode-instances $out/bin/
  '';

  # As npm brings it: it finds the program that it carries only as long as nobody patches it, so its
  # loader has to be in the usual place.
  opencode = copy "opencode" ''
    mkdir -p $out/bin
    cp /usr/bin/opencode $out/bin/
  '';
  glibc = copy "glibc" ''
    mkdir -p $out/lib
    files=/usr/bin/opencode
    ${libraries}
  '';

  bash = programs {
    name = "bash";
    more = "ln -s bash $out/bin/sh";
  };
  busybox = copy "busybox" ''
    mkdir -p $out/bin
    cp /usr/bin/busybox $out/bin/
    $out/bin/busybox --install -s $out/bin
  '';
  cacert = copy "cacert" ''
    mkdir -p $out/etc/ssl/certs
    cp -L /etc/ssl/certs/ca-certificates.crt $out/etc/ssl/certs/ca-bundle.crt
  '';
  getent = programs { name = "getent"; };
  git = programs { name = "git"; };
  nftables = programs {
    name = "nftables";
    files = "nft";
  };
  nix = programs {
    name = "nix";
    more = "for name in nix-build nix-daemon nix-store; do ln -s nix $out/bin/$name; done";
  };
  # This one does not survive patching.
  python3 = programs {
    name = "python3";
    plugins = "/usr/lib/python3.*/lib-dynload/*.so";
    more = ''
      cp -r /usr/lib/python3.* $out/lib/
      cp -L $(command -v python3) $out/lib/python3
      cp /usr/bin/busybox $out/lib/sh
      cat >$out/bin/python3 <<END
      #!$out/lib/sh
      PYTHONHOME=$out exec $out/lib/ld-linux-x86-64.so.2 --library-path $out/lib $out/lib/python3 "\$@"
      END
    '';
  };
  ripgrep = programs {
    name = "ripgrep";
    files = "rg";
  };
  systemd = programs {
    name = "systemd";
    files = "systemctl";
  };
  tzdata = copy "tzdata" ''
    mkdir -p $out/share
    cp -r /usr/share/zoneinfo $out/share/
  '';

  # What somebody who is after the rest of the machine brings along.
  tools = programs {
    name = "tools";
    files = "find grep ip journalctl mount nft nsenter ps setcap systemctl systemd-run umount unshare xargs";
  };

  # What no instance needs, and so what no agent may see.
  decoy = copy "decoy" "echo the-canary >$out";
}
