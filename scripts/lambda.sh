#!/bin/sh
# Rent a Lambda instance for one run, without Python on this computer; the instance ends itself.
#
#   export LAMBDA_API_KEY=... SEQUENCE_IMAGE=registry/image:tag AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...
#   scripts/lambda.sh --gpu gpu_1x_a10 --dataset ADA-EUR_1H --profile standard --store s3://bucket/prefix --max-hours 12
#   scripts/lambda.sh stop INSTANCE_ID
#
# Where docker has the image already, this is `sequence-runner launch lambda` in it, with all its options. Else curl
# asks Lambda, with these: --gpu --dataset --profile --store --max-hours --region --ssh-key --run-id --image, and
# further arguments of the runner after `--`. LAUNCH_WITH=docker or curl chooses.
set -eu
LC_ALL=C
export LC_ALL
provider=lambda key_name=LAMBDA_API_KEY api_name=SEQUENCE_LAMBDA_URL
api=${SEQUENCE_LAMBDA_URL:-https://cloud.lambda.ai/api/v1}
pause_s=1 # one request a second is allowed
at_work="booting active" gone="terminating terminated"
a_gpu=gpu_1x_a10 own_option=--ssh-key
# shellcheck source=scripts/provider.sh
. "$(dirname "$0")/provider.sh"
files=$(dirname "$0")/../runner/launch/lambda_cloud

words() { cleaned <"$tmp/raw" | head -c 500; } # of a refusal

names() { grep -o '"name":"[^"]*"' | cut -d '"' -f 4; }

escaped() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' | awk '{ printf "%s\\n", $0 }'; }

json() { # texts, as JSON writes them, with commas between them
  comma=
  for text in "$@"; do
    text=$(printf '%s\n' "$text" | escaped)
    printf '%s"%s"' "$comma" "${text%??}"
    comma=', '
  done
}

environment() { # of the container, as docker's --env-file has it
  for name in $handed_over; do
    value=$(printenv "$name" | tr '\n\r\t' '   ' | sed 's/ *$//') || value=
    [ -z "$value" ] || { plain "$name" "$value"; printf '%s=%s\n' "$name" "$value"; }
  done
  printf 'SEQUENCE_HOST=lambda\nSEQUENCE_MACHINE=%s\nSEQUENCE_BUDGET__PRICE_USD_PER_HOUR=%s\n' "$machine" "$price"
}

settings() { # arguments of the runner
  printf '{"run_id": %s, "tag": %s, "max_s": %s,\n' "$(json "$run_id")" "$(json "$machine")" "$max_s"
  printf ' "image": %s, "api_url": %s,\n' "$(json "$image")" "$(json "$api")"
  printf ' "keep_alive": false, "pause_s": 5.0, "docker_config": "/etc/docker/daemon.json",\n'
  printf ' "arguments": [%s]}\n' "$(json "$@")"
}

user_data() { # arguments of the runner
  while IFS= read -r line; do
    case $line in
      *'{{machine}}'*) sed 's/^/      /' "$files/machine.py" ;;
      *'{{settings}}'*) settings "$@" | sed 's/^/      /' ;;
      *'{{environment}}'*) sed 's/^/      /' "$tmp/environment" ;;
      *'{{api_key}}'*) printf '      %s\n' "$key" ;;
      *'{{max_s}}'*) printf '      OnBootSec=%ss\n' "$max_s" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done <"$files/user_data.yaml"
}

launch() { # regions; each is asked once, and never again after an unclear answer
  for region in "$@"; do
    printf '{"region_name": %s, "instance_type_name": %s, "ssh_key_names": [%s], "name": %s,\n' \
      "$(json "$region")" "$(json "$gpu")" "$(json "$ssh_key")" "$(json "$run_id")" >"$tmp/body"
    printf '"tags": [{"key": "sequence-runner", "value": %s}], "user_data": "%s"}\n' \
      "$(json "$machine")" "$(escaped <"$tmp/user_data")" >>"$tmp/body"
    echo "asking for $gpu in $region at $price USD per hour, at most $max_hours h"
    call POST instance-operations/launch "$tmp/body"
    case $status:$(cat "$tmp/answer") in
      200:*'"instance_ids":['*)
        id=$(sed 's/.*"instance_ids":\[ *"\([^"]*\)".*/\1/' "$tmp/answer")
        echo "run $run_id is on instance $id, which ends itself; before that: $0 stop $id"
        exit 0
        ;;
      *:*insufficient-capacity*) echo "no $gpu in $region any more"; sleep 11 ;;
      429:*) fail 69 "too many requests; wait a minute: $(words)" ;;
      4*:*) fail 78 "Lambda refuses ($status): $(words)" ;;
      *) look_after instances; echo "run $run_id is on an instance of that name, which ends itself"; exit 0 ;;
    esac
  done
  fail 69 "no capacity for $gpu; try another --gpu or --region"
}

rent() { # arguments of the runner
  ssh_key=$own_value
  max_s=$(awk -v hours="$max_hours" 'BEGIN { print int(hours * 3600 + 1800) }') # as the launcher: to fetch and publish
  [ ${#run_id} -le 64 ] || fail 2 "the run id $run_id is longer than the 64 characters of an instance's name"
  machine=$run_id-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n') # of all that have had this run's name, this one
  get instances
  ! is_there || { echo "run $run_id is on an instance already"; exit 0; }
  get instance-types
  kind=$(cat "$tmp/answer")
  case $kind in *"\"$gpu\":{"*) kind=${kind#*"\"$gpu\":{"} ;; *) fail 78 "Lambda has no instance type $gpu" ;; esac
  cents=${kind#*'"price_cents_per_hour":'}
  price=$(awk -v cents="${cents%%[!0-9]*}" 'BEGIN { print cents / 100 }')
  regions=${kind#*'"regions_with_capacity_available":['}
  regions=${region:-$(printf '%s\n' "${regions%%]*}" | names)}
  if [ -z "$ssh_key" ]; then
    get ssh-keys
    ssh_key=$(names <"$tmp/answer")
    [ -n "$ssh_key" ] || fail 78 "Lambda wants an SSH key with every launch and the account has none; add one"
    [ "$(printf '%s\n' "$ssh_key" | wc -l)" -eq 1 ] || fail 78 "choose with --ssh-key NAME:" "$ssh_key"
  fi
  environment >"$tmp/environment"
  user_data "$@" >"$tmp/user_data"
  # shellcheck disable=SC2086 # one word is one region
  launch $regions
}

case ${1:---help} in --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
prepare "$@"
if [ "$1" = stop ]; then
  [ $# -eq 2 ] || fail 2 "stop needs INSTANCE_ID"
  plain "INSTANCE_ID" "$2"
  printf '{"instance_ids": [%s]}\n' "$(json "$2")" >"$tmp/body"
  call POST instance-operations/terminate "$tmp/body"
  case $status in
    200 | 404) echo "instance $2 is ended" ;;
    *) fail 69 "Lambda refuses ($status), and instance $2 goes on costing: $(words)" ;;
  esac
else
  with_curl "$@"
fi
