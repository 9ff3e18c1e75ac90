"""Scans two tables with boto3 and fails unless both hold the same items: keys, attributes, types and number texts.

Shares nothing with the program under test. Usage:
compare.py URL REGION ACCESS_KEY EXTERNAL_ID SOURCE_ROLE SOURCE_TABLE TARGET_ROLE TARGET_TABLE
"""

import json
import sys

import boto3

SETS = ("SS", "NS", "BS")


def canonical(value):
    """The attribute as comparable text; the order in sets and maps is nobody's business."""
    (kind, content), = value.items()
    if kind in SETS:
        content = sorted(element.hex() if kind == "BS" else element for element in content)
    elif kind == "B":
        content = content.hex()
    elif kind == "L":
        content = [canonical(element) for element in content]
    elif kind == "M":
        content = {name: canonical(content[name]) for name in sorted(content)}
    return {kind: content}


def client_of(place, role):
    url, region, access_key, external_id = place
    base = {"endpoint_url": url, "region_name": region}
    sts = boto3.client("sts", aws_access_key_id=access_key, aws_secret_access_key="secret", **base)
    session = sts.assume_role(RoleArn=role, RoleSessionName="compare", ExternalId=external_id)["Credentials"]
    return boto3.client(
        "dynamodb",
        aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"],
        aws_session_token=session["SessionToken"],
        **base,
    )


def items(client, table):
    keys = [part["AttributeName"] for part in client.describe_table(TableName=table)["Table"]["KeySchema"]]
    found = {}
    for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        for item in page["Items"]:
            name = json.dumps([canonical(item[key]) for key in keys])
            if name in found:
                sys.exit(f"{table} shows the key {name} twice")
            found[name] = json.dumps(canonical({"M": item}), sort_keys=True)
    return found


def main(url, region, access_key, external_id, source_role, source_table, target_role, target_table):
    place = (url, region, access_key, external_id)
    source = items(client_of(place, source_role), source_table)
    target = items(client_of(place, target_role), target_table)
    differences = [key for key in sorted(source.keys() | target.keys()) if source.get(key) != target.get(key)]
    for key in differences[:10]:
        print(f"{key}\n  source: {source.get(key)}\n  target: {target.get(key)}")
    if differences:
        sys.exit(f"{len(differences)} keys differ of {len(source)} at the source and {len(target)} at the target")
    print(len(source))


main(*sys.argv[1:])
