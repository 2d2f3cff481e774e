"""The vocabulary of RTF: which destinations hold text, which bytes a charset means, which words are characters."""

from __future__ import annotations

KEPT_DESTINATIONS = {
    "footnote": ("",),
    "shptxt": ("", "shp", "shpinst"),
    "ud": ("", "upr"),
}
"""Destinations that are read, and within which skipped ones: `{\\shp{\\*\\shpinst … {\\shptxt the text of a box}}}`."""

_SKIPPED = """aftncn aftnsep aftnsepc annotation atnauthor atndate atnicn atnid atnparent atnref atntime atrfend atrfstart
    author background bkmkend bkmkstart blipuid buptim category colorschememapping colortbl comment company creatim
    datafield datastore defchp defpap do doccomm docvar ebcend ebcstart factoidname falt fchars ffdeftext ffentrymcr
    ffexitmcr ffformat ffhelptext ffl ffname ffstattext file filetbl fldinst fldtype fontemb fontfile fonttbl footer
    footerf footerl footerr formfield ftncn ftnsep ftnsepc generator gridtbl header headerf headerl headerr hl hlfr
    hlinkbase hlloc hlsrc hsv htmltag info keycode keywords latentstyles lchars levelnumbers leveltext lfolevel
    linkval list listlevel listname listoverride listoverridetable listpicture liststylename listtable listtext
    lsdlockedexcept mailmerge manager mhtmltag mmath mmathPict moMath moMathPara nesttableprops nextfile nonesttables
    nonshppict objalias objclass objdata object objname objsect objtime oldcprops oldpprops oldsprops oldtprops
    oleclsid operator panose password passwordhash pgp pgptbl picprop pict pn pnseclvl pntext pntxta pntxtb printim
    private propname protend protstart protusertbl pxe result revtbl revtim rsidtbl rxe shp shpgrp shpinst shppict
    shprslt sn sp staticval stylesheet subject sv svb tc template themedata title txe upr userprops wgrffmtfilter
    windowcaption writereservation writereservhash xe xform xmlattrname xmlattrvalue xmlclose xmlname xmlnstbl
    xmlopen"""
SKIPPED_DESTINATIONS = frozenset(_SKIPPED.split())

CHARACTERS = {
    "line": "\n",
    "lbr": "\n",
    "tab": "\t",
    "emdash": "\u2014",
    "endash": "\u2013",
    "emspace": "\u2003",
    "enspace": "\u2002",
    "qmspace": "\u2005",
    "bullet": "\u2022",
    "lquote": "\u2018",
    "rquote": "\u2019",
    "ldblquote": "\u201c",
    "rdblquote": "\u201d",
}

CHARSET_ENCODINGS = {
    77: "mac_roman",
    84: "mac_cyrillic",
    128: "cp932",
    129: "cp949",
    130: "johab",
    134: "gbk",
    136: "big5",
    161: "cp1253",
    162: "cp1254",
    163: "cp1258",
    177: "cp1255",
    178: "cp1256",
    186: "cp1257",
    204: "cp1251",
    222: "cp874",
    238: "cp1250",
    254: "cp437",
}
"""By `\\fcharset`. 0, 1 and unknown ones are the document's own code page, which may lie: see `_Reader.blocks`."""

CODE_PAGES = {
    **{number: f"cp{number}" for number in (437, 737, 775, 850, 852, 855, 857, 860, 861, 862)},
    **{number: f"cp{number}" for number in (863, 864, 865, 866, 869, 874, 932, 949, 950)},
    **{number: f"cp{number}" for number in range(1250, 1259)},
    936: "gbk",
    10000: "mac_roman",
    10007: "mac_cyrillic",
    20866: "koi8_r",
    65001: "utf-8",
}
