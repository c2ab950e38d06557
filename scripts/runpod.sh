#!/bin/sh
# Rent a RunPod pod for one run, without Python on this computer; the pod ends itself with the run.
#
#   export RUNPOD_API_KEY=... SEQUENCE_IMAGE=registry/image:tag AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...
#   scripts/runpod.sh --gpu "NVIDIA A40" --dataset ADA-EUR_1H --profile standard --store s3://bucket/prefix --max-hours 12
#   scripts/runpod.sh stop POD_ID
#
# Where docker has the image already, this is `sequence-runner launch runpod` in it, with all its options. Else curl
# asks RunPod, with these: --gpu --dataset --profile --store --max-hours --region --disk-gb --run-id --image, and
# further arguments of the runner after `--`. LAUNCH_WITH=docker or curl chooses.
set -eu
LC_ALL=C
export LC_ALL
provider=runpod key_name=RUNPOD_API_KEY api_name=SEQUENCE_RUNPOD_URL
api=${SEQUENCE_RUNPOD_URL:-https://api.runpod.io/v2}
at_work="PROVISIONING STARTING RUNNING" gone=TERMINATED
a_gpu='"NVIDIA A40"' own_option=--disk-gb
# shellcheck source=scripts/provider.sh
. "$(dirname "$0")/provider.sh"

words() { # of a refusal; a pod is never shown, for it has the secrets of its environment
  cleaned <"$tmp/raw" | sed 's/": */":/g' | grep -o '"\(title\|detail\)":"[^"]*"\|"errors":\[[^]]*\]' | head -c 500 || true
}

json() { # a text, as JSON writes it
  printf '"%s"' "$(printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g')"
}

quoted() { # words, as one text that a shell takes apart again
  for word in "$@"; do
    printf "'%s' " "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
  done
}

environment() { # of the container, as members of a JSON object
  printf '"SEQUENCE_HOST": "runpod", "SEQUENCE_END_AFTER_H": "%s"' "$(awk -v h="$max_hours" 'BEGIN { print h + 0.5 }')"
  for name in $handed_over; do
    value=$(printenv "$name" | tr '\n\r\t' '   ' | sed 's/ *$//') || value=
    [ -z "$value" ] || { plain "$name" "$value"; printf ', "%s": ' "$name"; json "$value"; }
  done
}

found() { echo "run $run_id is on a pod of that name, which ends itself with the run"; exit 0; }

create() { # asked once, and never again after an unclear answer
  call POST pods "$tmp/body"
  case $status in
    201 | 200)
      top=$(sed 's/"gpu":{[^}]*}//' "$tmp/answer") # the GPU has an id of its own
      id=$(printf '%s\n' "$top" | grep -o '"id":"[A-Za-z0-9_-]*"' | head -n 1 | cut -d '"' -f 4)
      cost=$(printf '%s\n' "$top" | grep -o '"cost":[0-9.]*' | head -n 1 | cut -d : -f 2)
      echo "run $run_id is on pod ${id:-of that name} at ${cost:-?} USD per hour, at most $max_hours h of the run"
      echo "it ends itself with the run; before that: $0 stop ${id:-POD_ID}"
      ;;
    400 | 403 | 409) fail 69 "no $gpu can be had now, or the request breaks a rule ($status): $(words)" ;;
    402) fail 69 "the balance of the account is too low: $(words)" ;;
    429) fail 69 "too many requests; wait a minute: $(words)" ;;
    4*) fail 78 "RunPod refuses ($status): $(words)" ;;
    *) look_after pods; found ;;
  esac
}

rent() { # arguments of the runner
  disk_gb=${own_value:-40}
  case $disk_gb in *[!0-9]*) fail 2 "--disk-gb $disk_gb is no number of gigabytes" ;; esac
  get pods
  ! is_there || found
  environment >"$tmp/environment" # not within the body: what is refused in a substitution ends nothing
  {
    printf '{"name": %s, "image": %s, "disk": %s,\n' "$(json "$run_id")" "$(json "$image")" "$disk_gb"
    printf ' "gpu": {"id": %s, "count": 1}, "cloud": "SECURE",\n' "$(json "$gpu")"
    [ -z "$region" ] || printf ' "dataCenterIds": [%s],\n' "$(json "$region")"
    args=$(quoted "$@")
    printf ' "args": %s,\n "env": {%s}}\n' "$(json "${args% }")" "$(cat "$tmp/environment")"
  } >"$tmp/body"
  create
}

case ${1:---help} in --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
prepare "$@"
if [ "$1" = stop ]; then
  [ $# -eq 2 ] || fail 2 "stop needs POD_ID"
  case $2 in *[!A-Za-z0-9_-]*) fail 2 "$2 is no id of a pod" ;; esac
  call DELETE "pods/$2"
  case $status in
    204 | 200 | 404) echo "pod $2 is ended" ;;
    *) fail 69 "RunPod refuses ($status), and pod $2 goes on costing: $(words)" ;;
  esac
else
  with_curl "$@"
fi
