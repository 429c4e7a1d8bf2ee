# A package that is started like opencode's and answers what these tests ask of it.
{
  lib,
  python3,
  writeTextFile,
}:
writeTextFile {
  name = "opencode-stand-in";
  executable = true;
  destination = "/bin/opencode";
  text = "#!${lib.getExe python3}\n" + builtins.readFile ./stand-in.py;
  meta.mainProgram = "opencode";
}
