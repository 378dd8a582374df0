from lit_vlm.command_line.closest import did_you_mean


def test_close_names_are_suggested_whatever_their_case():
    assert did_you_mean("sftmodule", ["SFTModule", "DPOModule", "x"]) == "; did you mean 'SFTModule' or 'DPOModule'?"


def test_distant_names_are_not():
    assert did_you_mean("quickstart", ["dpo"]) == ""
    assert did_you_mean("", []) == ""
